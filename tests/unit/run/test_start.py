"""What a run that goes on says about its configuration."""

from dataclasses import asdict

import pytest

from megatron_coreward.config.schema import Config
from megatron_coreward.run.start import warn_of_changes


def test_changed_keys_are_named_and_new_ones_are_not(caplog: pytest.LogCaptureFixture) -> None:
    """A checkpoint of an older version lacks keys: nothing to say while they are at their defaults."""
    config = Config()
    before = asdict(config)
    saved = {"config": before, "trainer": {}}
    del before["logging"]["wandb_group"], before["weight_sync"]
    config.run.resume = True
    warn_of_changes(saved, config, "")
    assert not caplog.text
    config.optimizer.lr, config.logging.wandb_group = 1e-5, "seeds"
    warn_of_changes(saved, config, "")
    assert "optimizer.lr is now 1e-05; it was 3e-06" in caplog.text
    assert "logging.wandb_group is now 'seeds'; it was ''" in caplog.text


def test_a_run_from_before_shared_prompts_hears_of_them(caplog: pytest.LogCaptureFixture) -> None:
    """Until the key existed every response had a pass over its prompt."""
    saved = {"config": asdict(Config()), "trainer": {}}
    del saved["config"]["optimizer"]["share_prompts"]
    warn_of_changes(saved, Config(), "")
    assert "optimizer.share_prompts is now True; it was False when the checkpoint" in caplog.text
    assert "results differ by rounding only" in caplog.text


def test_stored_values_of_keys_that_may_be_auto_now(caplog: pytest.LogCaptureFixture) -> None:
    config = Config()
    saved = {"config": asdict(config), "trainer": {}}
    saved["config"]["rollout"] |= {"enforce_eager": True, "max_num_seqs": 256}
    config.rollout.enforce_eager, config.rollout.max_num_seqs = True, 256
    warn_of_changes(saved, config, "")
    assert not caplog.text
    config.rollout.enforce_eager = config.rollout.max_num_seqs = "auto"
    warn_of_changes(saved, config, "")
    assert "rollout.enforce_eager is now 'auto'; it was True" in caplog.text
    assert "rollout.max_num_seqs is now 'auto'; it was 256" in caplog.text
