"""The run-time type checker of the tests: shapes (jaxtyping) and types of the core's signatures. An int is a float."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
