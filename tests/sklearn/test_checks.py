"""All of scikit-learn's own checks of estimators."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from ranef.sklearn import MixedClassifier, MixedRegressor

# Check to the reason why it cannot hold, for `MixedRegressor`.
EXPECTED = {
    "check_sample_weight_equivalence_on_dense_data": (
        "weights of a gaussian response are precisions, as in lme4 and statsmodels' WLS: a row of "
        "weight 2 says as much about the mean as two rows, and less about sigma"
    ),
}


def expected_failures(estimator):
    return EXPECTED if isinstance(estimator, MixedRegressor) else {}


# What the estimator says where the columns fit y exactly, as in many of the checks' tables.
@pytest.mark.filterwarnings("ignore:the columns fit y exactly")
@pytest.mark.long
@parametrize_with_checks(
    [MixedRegressor(draws=50), MixedClassifier(draws=50)],
    expected_failed_checks=expected_failures,
)
def test_check(estimator, check):
    check(estimator)
