"""Names of the modes in titles."""

MODE_TITLES: dict[str, str] = {
    "deep": "VPT-Deep",
    "prefix": "visual prefix tuning",
    "shallow": "VPT-Shallow",
    "linear": "linear probe",
}
