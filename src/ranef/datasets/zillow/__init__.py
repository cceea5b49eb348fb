"""The Zillow study of the 2017 post: its data, models and page."""

from ranef.datasets.zillow.generator import generate
from ranef.datasets.zillow.preparation import Sales, prepare

__all__ = ["Sales", "generate", "prepare"]
