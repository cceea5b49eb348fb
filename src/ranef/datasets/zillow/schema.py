"""Columns of the Zillow Prize's properties file: Kaggle's name, a readable name, share of nulls.

The shares of nulls are those among 10,000 sales of 2016. Only the generator uses them.
"""

from typing import NamedTuple


class PropertyColumn(NamedTuple):
    """A column of the properties file.

    Attributes:
        kaggle: its name in the file.
        readable: its name in the prepared table.
        null_share: its share of nulls.
    """

    kaggle: str
    readable: str
    null_share: float


COLUMNS = tuple(
    PropertyColumn(*row)
    for row in (
        ("parcelid", "id_parcel", 0.0),
        ("airconditioningtypeid", "aircon", 0.690),
        ("architecturalstyletypeid", "architectural_style", 0.997),
        ("basementsqft", "area_basement", 0.9996),
        ("bathroomcnt", "num_bathroom", 0.0),
        ("bedroomcnt", "num_bedroom", 0.0),
        ("buildingclasstypeid", "framing", 0.9998),
        ("buildingqualitytypeid", "quality", 0.354),
        ("calculatedbathnbr", "num_bathroom_calc", 0.019),
        ("decktypeid", "deck", 0.992),
        ("finishedfloor1squarefeet", "area_firstfloor_finished", 0.933),
        ("calculatedfinishedsquarefeet", "area_total_calc", 0.014),
        ("finishedsquarefeet12", "area_live_finished", 0.064),
        ("finishedsquarefeet13", "area_liveperi_finished", 0.9999),
        ("finishedsquarefeet15", "area_total_finished", 0.956),
        ("finishedsquarefeet50", "area_unknown", 0.933),
        ("finishedsquarefeet6", "area_base", 0.994),
        ("fips", "fips", 0.0),
        ("fireplacecnt", "num_fireplace", 0.904),
        ("fullbathcnt", "num_bath", 0.019),
        ("garagecarcnt", "num_garage", 0.685),
        ("garagetotalsqft", "area_garage", 0.685),
        ("hashottuborspa", "flag_tub", 0.973),
        ("heatingorsystemtypeid", "heating", 0.375),
        ("latitude", "latitude", 0.0),
        ("longitude", "longitude", 0.0),
        ("lotsizesquarefeet", "area_lot", 0.109),
        ("poolcnt", "num_pool", 0.808),
        ("poolsizesum", "area_pool", 0.992),
        ("pooltypeid10", "pooltype10", 0.987),
        ("pooltypeid2", "pooltype2", 0.986),
        ("pooltypeid7", "pooltype7", 0.821),
        ("propertycountylandusecode", "zoning_landuse_county", 0.0),
        ("propertylandusetypeid", "zoning_landuse", 0.0),
        ("propertyzoningdesc", "zoning_property", 0.337),
        ("rawcensustractandblock", "rawcensus", 0.0),
        ("regionidcity", "city", 0.023),
        ("regionidcounty", "county", 0.0),
        ("regionidneighborhood", "neighborhood", 0.596),
        ("regionidzip", "zip", 0.0003),
        ("roomcnt", "num_room", 0.0),
        ("storytypeid", "story", 0.9996),
        ("threequarterbathnbr", "num_75_bath", 0.872),
        ("typeconstructiontypeid", "material", 0.996),
        ("unitcnt", "num_unit", 0.342),
        ("yardbuildingsqft17", "area_patio", 0.975),
        ("yardbuildingsqft26", "area_shed", 0.999),
        ("yearbuilt", "build_year", 0.015),
        ("numberofstories", "num_story", 0.783),
        ("fireplaceflag", "flag_fireplace", 0.998),
        ("structuretaxvaluedollarcnt", "tax_building", 0.010),
        ("taxvaluedollarcnt", "tax_total", 0.0),
        ("assessmentyear", "tax_year", 0.0),
        ("landtaxvaluedollarcnt", "tax_land", 0.0),
        ("taxamount", "tax_property", 0.0),
        ("taxdelinquencyflag", "tax_delinquency", 0.976),
        ("taxdelinquencyyear", "tax_delinquency_year", 0.976),
        ("censustractandblock", "census", 0.012),
    )
)

# Readable names by Kaggle's names.
READABLE = {column.kaggle: column.readable for column in COLUMNS}
