"""The words of the field as frozen values. Pure."""
