"""What a user gives for a prior is checked, and so is whether it suits the parameter."""

import pytest

import ranef as rf
from ranef import priors
from ranef.errors import OptionError


@pytest.mark.parametrize("given", [{"x": "Normal"}, [rf.Normal()]], ids=str)
def test_what_is_no_prior_is_refused(given):
    with pytest.raises(OptionError):
        priors.checked(given)


@pytest.mark.parametrize(
    ("prior", "support", "fits"),
    [
        (rf.Normal(), "real", True),
        (rf.Normal(), "positive", False),
        (rf.HalfNormal(), "real", True),
        (rf.Uniform(-1, 1), "positive", False),
        (rf.Uniform(0, 1), "positive", True),
        (rf.Variance(rf.Gamma()), "positive", True),
        (rf.LogOdds(rf.Beta()), "real", True),
        (rf.LogOdds(rf.Beta()), "unit", False),
        (rf.Precision(rf.Gamma()), "real", False),
        (rf.Precision(rf.Gamma()), "unit", False),
        (rf.LKJ(2), "correlation", True),
        (rf.Normal(), "correlation", False),
        (priors.Fixed(-1.0), "positive", False),
        (priors.Fixed(-1.0), "real", True),
    ],
)
def test_a_prior_must_live_where_the_parameter_does(prior, support, fits):
    if fits:
        assert priors.allowed("p", prior, support) is prior
    else:
        with pytest.raises(OptionError, match="cannot be the prior of 'p': use"):
            priors.allowed("p", prior, support)
