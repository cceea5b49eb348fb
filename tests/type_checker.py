"""The run-time checker of annotations that the tests use."""

from beartype import BeartypeConf, beartype

# A whole number is taken where a float is asked for, as static type checkers do.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
