"""The work tree in which the runs of a tag happen: the sources of a table cannot change beneath it."""

import subprocess
from pathlib import Path


def tree_of(tag: str, root: Path) -> Path:
    """A clean work tree at the tag, made or used again: ROOT/build/arms/TAG.

    Raises:
        ValueError: there is no such tag, or the tree has changes or is at another commit.
    """
    known = _git(root, "tag", "--list", tag)
    if not known:
        raise ValueError(f"there is no tag {tag!r}: make it with git tag {tag}, on a commit that has it all")
    commit = _git(root, "rev-parse", f"refs/tags/{tag}^{{commit}}")
    tree = root / "build" / "arms" / tag
    if not tree.exists():
        _git(root, "worktree", "prune")
        _git(root, "worktree", "add", "--detach", str(tree), commit)
    if (there := commit_of(tree)) != commit:
        raise ValueError(
            f"the tag {tag} is at {commit[:12]}, but {tree} at {there[:12]}: the tag has been moved; make a "
            "new tag, since results of two commits do not go into one table"
        )
    if changed := changes_in(tree):
        raise ValueError(f"{tree} has changes ({changed[0]}): undo them, runs happen at the tag itself")
    return tree


def commit_of(tree: Path) -> str:
    """What HEAD is at."""
    return _git(tree, "rev-parse", "HEAD")


def changes_in(tree: Path) -> list[str]:
    """Files that are changed or untracked, but not those that git ignores."""
    return [line[2:].strip() for line in _git(tree, "status", "--porcelain").splitlines()]


def _git(folder: Path, *arguments: str) -> str:
    """Its output. Raises ValueError with git's own sentence."""
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"git {arguments[0]} in {folder}: {(done.stderr.strip() or done.stdout).strip()}")
    return done.stdout.strip()
