"""The catalogue that plans use: the packaged one, under the rows of the home folder's own."""

from importlib import resources
from pathlib import Path

from tandem.kit.errors import InvalidRequest
from tandem.plan import Catalogue, parse_catalogue

CATALOGUE = "catalogue.toml"


def catalogue_of(home: Path) -> Catalogue:
    """The packaged catalogue with the rows of the home folder's own over it.

    Raises:
        InvalidRequest: the home folder's is wrong, and names the key, or cannot be read.
    """
    packaged = resources.files("tandem.plan").joinpath(CATALOGUE).read_text(encoding="utf-8")
    found = parse_catalogue(packaged, where="of the house")
    own = home / CATALOGUE
    if not own.exists():
        return found
    try:
        text = own.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The catalogue {own} cannot be read: {error}.", remedy="Save it as UTF-8.") from error
    return parse_catalogue(text, where=str(own), over=found)
