"""Runs programs that nobody trusts, and says which of their tests they pass; knows neither rewards, nor rows, nor Ray.

On our side of the wall: ``cases.py`` reads tests, ``asserts.py`` takes an assertion apart so that what it expects never
goes inside, ``statements.py`` calls what nobody calls, ``values.py`` reads what comes out, ``judging.py`` says what
passed, ``pool.py`` keeps warm sandboxes and chooses their protection. Inside, with nothing but the standard library:
``zygote.py`` serves, ``walls.py`` and ``namespaces.py`` confine, ``harness.py`` runs a program and its tests.
``docs/sandbox.md`` says what protects what.

    from rmbatch.sandbox.cases import read_cases
    from rmbatch.sandbox.judging import Limits, judge
    judge("def f(x): return x + 1", read_cases(["assert f(1) == 2"]), Limits(), "auto").share      # 1.0
    python -m rmbatch.sandbox                                          # which protections work on this machine
"""
