"""placeholder"""


def write(name: str) -> str:
    return ""
