"""Runs untrusted programs and says which of their tests they pass. It knows neither rewards, nor rows, nor Ray.

On our side of the wall, ``cases.py`` reads tests, and ``asserts.py`` parses assertions so that the expected value stays
outside. ``statements.py`` adds calls of test functions, ``values.py`` reads what comes out, ``runner.py`` says what
passed, and ``pool.py`` keeps warm sandboxes and chooses their protection. Inside, with the standard library alone,
``zygote.py`` serves requests, ``walls.py`` and ``namespaces.py`` confine, and ``harness.py`` runs a program and its
tests. ``docs/sandbox.md`` describes the protections.

    from rmbatch.sandbox.cases import read_cases
    from rmbatch.sandbox.runner import Limits, run_tests
    run_tests("def f(x): return x + 1", read_cases(["assert f(1) == 2"]), Limits(), "auto").share      # 1.0
    python -m rmbatch.sandbox                                          # which protections work on this machine
"""
