"""``python -m rmbatch.sandbox``: which protections work on this machine, and what each of them holds."""

from rmbatch.sandbox.pool import LEVELS, RefusedError, Sandbox


def main() -> None:
    """Start a sandbox of each level; print what it found, or why it does not work."""
    for level in LEVELS:
        try:
            sandbox = Sandbox(level)
        except RefusedError as reason:
            print(f"{level:11} does not work here: {reason}")
            continue
        print(
            f"{level:11} works: "
            + ", ".join(f"{key} {value}" for key, value in sandbox.facts.items() if key != "level")
        )
        sandbox.stop()


if __name__ == "__main__":
    main()
