"""The Zillow study: its data, models and page."""

from ranef.datasets.zillow.generator import generate
from ranef.datasets.zillow.preparation import Sales, prepare

__all__ = ["Sales", "generate", "prepare"]
