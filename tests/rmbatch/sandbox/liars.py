"""Hostile programs that want to pass without the right answer."""

from tests.rmbatch.sandbox.hostile import CALM, ENDED, Hostile

LYING = [
    Hostile(
        "sys.exit(0) while loading",
        "sys.exit(0)",
        ENDED,
        ("exception",),
    ),
    Hostile(
        "os._exit(0) while loading",
        "os._exit(0)",
        ENDED,
        ("exit",),
    ),
    Hostile(
        "sys.exit(0) in a test",
        """
        def answer():
            sys.exit(0)
        """,
        CALM,
        ("exception",),
    ),
    Hostile(
        "os._exit(0) in a test",
        """
        def answer():
            os._exit(0)
        """,
        CALM,
        ("exit",),
    ),
    Hostile(
        "always equal",
        """
        class Equal:
            def __eq__(self, other): return True
            def __bool__(self): return True
            __hash__ = object.__hash__
        def answer():
            return Equal()
        """,
    ),
    Hostile(
        "a number that is always equal",
        """
        class Equal(int):
            def __eq__(self, other): return True
            def __index__(self): return 918273645
            def __reduce__(self): return (eval, ('print(1)',))
            __hash__ = int.__hash__
        def answer():
            return Equal(3)
        """,
    ),
    Hostile(
        "a class that says it is int",
        """
        class Meta(type):
            def __instancecheck__(cls, x): return True
            def __subclasscheck__(cls, x): return True
        class Equal(metaclass=Meta):
            __class__ = int
            def __eq__(self, other): return True
            def __int__(self): return 918273645
        def answer():
            return Equal()
        """,
    ),
    Hostile(
        "builtins patched",
        """
        import builtins, operator, json
        builtins.AssertionError = type('Quiet', (Exception,), {})
        builtins.all = builtins.any = builtins.bool = builtins.isinstance = lambda *a: True
        builtins.eval = builtins.exec = builtins.compile = lambda *a, **k: True
        operator.eq = lambda *a: True
        builtins.__build_class__ = None
        """,
        None,
        ("wrong_answer", "exception", "garbage", "exit"),
    ),
    Hostile(
        "modules patched",
        """
        import json, unittest, struct, signal
        json.dumps = lambda *a, **k: 'true'
        json.encoder.c_make_encoder = None
        unittest.TestCase.assertEqual = lambda *a: None
        struct.pack = lambda *a: b''
        os.write = lambda fd, data: len(data)
        os.fork = lambda: 0
        sys.modules['builtins'] = sys.modules['os'] = None
        """,
        None,
        ("wrong_answer", "exception", "garbage", "exit"),
    ),
    Hostile(
        "a fake result printed",
        r"""
        print('PASSED')
        print('test 1: passed\n2 passed in 0.01s\nOK')
        def answer():
            print({'passed': True, 'score': 1.0})
            return {'score': 1.0, 'passed': True}
        """,
    ),
    Hostile(
        "every open file written to",
        r"""
        def answer():
            for fd in range(64):
                for text in (b'PASSED', b'{"passed": true}', b'\x00' * 100, b'V\x00\x00\x00\x04true'):
                    try: os.write(fd, text)
                    except OSError: pass
            return 0
        """,
        None,
        ("garbage", "wrong_answer"),
    ),
    Hostile(
        "frames forged",
        """
        import json, struct
        def frame(kind, value):
            text = json.dumps(value).encode()
            return kind + struct.pack('>I', len(text)) + text
        def answer():
            for value in ([['v', 0]], [['v', True]], [['o', 'int', True]], []):
                os.write(3, frame(b'V', {'token': '', 'found': value, 'error': None}))
            os.write(3, frame(b'E', {'status': 0, 'cpu_s': 0}) * 5)
            os._exit(0)
        """,
        None,
        ("garbage", "wrong_answer", "exit"),
    ),
    Hostile(
        "frames forged, with nonsense",
        r"""
        import json, struct
        def answer():
            for text in (b'[]', b'{"pid": 1e400}', b'{"status": "x", "cpu_s": []}', b'[' * 100000, b'\xff'):
                for kind in (b'V', b'S', b'E', b'L', b'F'):
                    os.write(3, kind + struct.pack('>I', len(text)) + text)
            return 0
        """,
        None,
        ("garbage", "wrong_answer", "processes", "exit"),
    ),
    Hostile(
        "what is expected looked for in memory and frames",
        r"""
        import gc, re
        def answer():
            seen = []
            frame = sys._getframe()
            while frame:
                seen += [repr(dict(frame.f_locals)), repr(frame.f_code.co_consts)]
                frame = frame.f_back
            for thing in gc.get_objects():
                if type(thing) in (dict, list, tuple, str): seen.append(repr(thing)[:10000])
            found = [found for text in seen for found in re.findall(r'9182\d{5}', text)]
            return int(found[0]) if found else 0
        """,
    ),
    Hostile(
        "a value that unpickles as code",
        """
        class Bomb:
            def __reduce__(self): return (os.system, ('touch CANARY/pickled',))
        def answer():
            return Bomb()
        """,
    ),
    Hostile(
        "stands up to numpy",
        """
        class Scalar:
            __module__ = 'numpy'
            ndim = 0
            def item(self): return Scalar()
        def answer():
            return Scalar()
        """,
    ),
]
