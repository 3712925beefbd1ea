"""The C extension, which is optional; all else is in setup.cfg."""

from setuptools import Extension, setup

setup(ext_modules=[Extension("tornado_chat.live._fanout", ["tornado_chat/live/_fanout.c"], optional=True)])
