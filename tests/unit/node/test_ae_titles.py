"""This site's own AE title is nobody else's: an image meant for the house must not go to a partner."""

import pytest

from raypost.errors import UsageError
from raypost.model.site import Partner
from raypost.node.ae_titles import partner_with_title, refuse_own_title

CENTRE = Partner(2, "ludwigshafen", "Schlaganfallzentrum", "LUDWIGSHAFEN", "l@raypost.test", "A" * 40)
OWN = Partner(1, "neustadt", "Klinikum", "NEUSTADT", "n@raypost.test", "B" * 40, True)


@pytest.mark.parametrize("title", ["LUDWIGSHAFEN", "LUDWIGSHAFEN_N", "LUDWIGSHAFEN_U", "LUDWIGSHAFEN_R"])
def test_a_partner_with_our_title_is_refused(title) -> None:
    with pytest.raises(UsageError, match="own"):
        refuse_own_title(title, CENTRE)
    assert partner_with_title(title, [OWN, CENTRE]) is CENTRE


def test_any_other_is_welcome() -> None:
    refuse_own_title("RAYPOST", CENTRE)
    assert partner_with_title("RAYPOST", [OWN, CENTRE]) is None
    assert partner_with_title("NEUSTADT", [OWN, CENTRE]) is None, "the title for partners is no other's"
