"""What every pipeline step shares: one image for all of them, and nothing installed at run time."""

from functools import partial

from kfp import dsl

from moderation.settings import settings

component = partial(dsl.component, base_image=settings().component_image, install_kfp_package=False)
"""Decorates the function of one step; its body runs in a process of its own, so it imports what it needs itself."""
