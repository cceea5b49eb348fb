"""The preparation of the post, on generated files and on the real ones."""

import csv

import numpy as np
import pytest
import scipy.stats as st

from ranef.datasets.zillow import generator, preparation, study
from ranef.datasets.zillow.schema import COLUMNS, READABLE
from ranef.errors import ColumnError, DataError, FileError


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zillow")
    properties, transactions = folder / "properties.csv", folder / "transactions.csv"
    truth = generator.generate(properties, transactions, sales=4000, seed=1)
    return properties, transactions, truth


def test_generated_files_have_kaggles_schema(files):
    properties, transactions, _ = files
    with open(properties) as file:
        rows = list(csv.reader(file))
    assert rows[0] == [column.kaggle for column in COLUMNS]
    assert len(rows[0]) == 58
    for column in COLUMNS:
        place = rows[0].index(column.kaggle)
        share = np.mean([row[place] == "" for row in rows[1:]])
        assert share == pytest.approx(column.null_share, abs=0.04), column.kaggle
    with open(transactions) as file:
        header = file.readline().strip()
    assert header == "parcelid,logerror,transactiondate"


def test_the_preparation_follows_the_posts_steps(files):
    properties, transactions, _ = files
    sales = preparation.prepare(properties, transactions, seed=2)
    assert sales.read == sales.joined == 4000
    assert all(share >= 0.25 for share in sales.dropped.values())
    assert len(sales.kept) + len(sales.dropped) == 58
    assert 0.6 * 4000 < sales.n < 4000
    assert sales.train.sum() == sales.n // 2
    for name in preparation.PREDICTORS:
        values = sales.columns[name][sales.train]
        assert values.mean() == pytest.approx(0, abs=1e-12)
        assert values.std() == pytest.approx(1)
    assert list(sales.correlations) == sorted(
        sales.correlations, key=lambda name: -abs(sales.correlations[name])
    )
    assert all(name.isdigit() for name in sales.columns["zip"])
    again = preparation.prepare(properties, transactions, seed=2)
    np.testing.assert_array_equal(again.train, sales.train)
    assert preparation.prepare(properties, transactions, rows=500).read == 500


def test_the_generator_repeats_itself_and_says_its_truth(files, tmp_path):
    properties, transactions, truth = files
    generator.generate(tmp_path / "p.csv", tmp_path / "t.csv", sales=4000, seed=1)
    assert (tmp_path / "p.csv").read_bytes() == properties.read_bytes()
    assert (tmp_path / "t.csv").read_bytes() == transactions.read_bytes()
    sales = preparation.prepare(properties, transactions)
    known = truth.scaled(sales.scales)
    y = sales.columns["logerror"] - [truth.zips[name] for name in sales.columns["zip"]]
    x = np.column_stack([np.ones(sales.n), *(sales.columns[k] for k in preparation.PREDICTORS)])
    beta, rss, *_ = np.linalg.lstsq(x, y, rcond=None)
    sd = np.sqrt(np.diag(np.linalg.inv(x.T @ x)) * rss[0] / sales.n)
    assert (np.abs(beta - list(known.values())) < 4 * sd).all()


def test_the_real_files_leave_the_rows_the_post_kept(reference_data):
    folder = reference_data / "zillow"
    sales = preparation.prepare(folder / "properties_2016.csv", folder / "train_2016_v2.csv")
    assert (sales.read, sales.joined, sales.n) == (10_000, 10_000, 8_116)
    assert len(sales.kept) == 25
    assert sales.train.sum() == 4_058
    assert set(READABLE.values()) == {*sales.kept, *sales.dropped}


def test_constants_are_the_maximum_likelihood_ones():
    rng = np.random.default_rng(0)
    y = 0.01 + 0.05 * rng.standard_t(3, 20_000)
    nu, location, scale = study._student(y)
    assert (nu, location, scale) == pytest.approx(st.t.fit(y), rel=0.05, abs=0.002)


def test_bad_files_get_a_sentence(files, tmp_path):
    properties, transactions, _ = files
    parcel = transactions.read_text().splitlines()[1].split(",")[0]
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "far.csv").write_text("parcelid,logerror\n1,0.5\n2,0.25\n")
    (tmp_path / "gap.csv").write_text(f"parcelid,logerror\n{parcel},\n{parcel},0.1\n")
    with pytest.raises(FileError, match="no file"):
        preparation.prepare(tmp_path / "absent.csv", transactions)
    with pytest.raises(ColumnError, match="'parcelid' is not in"):
        preparation.prepare(properties, tmp_path / "other.csv")
    with pytest.raises(ColumnError, match="expected Kaggle's properties_2016.csv"):
        preparation.prepare(transactions, transactions)
    with pytest.raises(DataError, match="share no parcel"):
        preparation.prepare(properties, tmp_path / "far.csv")
    with pytest.raises(DataError, match="'logerror' is missing or not finite in 1 sales.*row 1"):
        preparation.prepare(properties, tmp_path / "gap.csv")
