"""For tools that ask for a setup.py; pyproject.toml has everything."""

from setuptools import setup

setup()
