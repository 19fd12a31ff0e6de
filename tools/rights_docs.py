"""The generated page of roles and rights: drawn from the table that the product checks by.

`tools/generate_docs.py` writes it.
"""

from __future__ import annotations

from protocol_docs import table

from raypost.model.rights import RIGHT_TEXT, RIGHTS, ROLE_TEXT, Right, Role

INTRODUCTION = """# Roles and rights

A person of a site has one role or several, and may do what any of them allows. One place in the program checks it
(`archive/people.py`). [Persons](../how-to/people.md) says how to add people and change roles;
[who may do what](../explanation/who-may-what.md) says what a role does not stand against.

"""


def rights_text() -> str:
    """Return the page behind its first line: what each role is for, then who may do what."""
    roles = table(("role", "what it is for"), [(f"`{one.value}`", ROLE_TEXT[one]) for one in Role])
    rights = table(
        ("right", *(one.value for one in Role), "what it is"),
        [(one.value, *("yes" if one in RIGHTS[role] else "" for role in Role), RIGHT_TEXT[one]) for one in Right],
    )
    return f"{INTRODUCTION}{roles}\n## Who may do what\n\n{rights}"
