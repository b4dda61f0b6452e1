"""Hostile programs that take all there is: time, memory, processes, files, output; and those that will not end."""

from tests.rmbatch.sandbox.hostile import CALM, ENDED, Hostile

GREEDY = [
    Hostile(
        "fork bomb while loading",
        """
        while True:
            try: os.fork()
            except OSError: pass
        """,
        ENDED,
        ("timeout",),
    ),
    Hostile(
        "fork bomb in a test",
        """
        def answer():
            while True:
                try: os.fork()
                except OSError: pass
        """,
        None,
        ("timeout", "processes"),
    ),
    Hostile(
        "memory bomb",
        """
        def answer():
            return len(bytearray(1 << 33))
        """,
        CALM,
        ("memory",),
    ),
    Hostile(
        "memory bomb, bit by bit",
        """
        def answer():
            kept = []
            while True: kept.append(bytearray(1 << 20))
        """,
        CALM,
        ("memory", "timeout"),
    ),
    Hostile(
        "memory bomb of many processes",
        """
        import time
        def answer():
            for _ in range(20):
                if os.fork() == 0:
                    kept = [b'x' * (48 << 20)]
                    time.sleep(60)
            time.sleep(60)
        """,
        None,
        ("memory", "timeout"),
    ),
    Hostile(
        "shared memory bomb",
        """
        import mmap
        def answer():
            kept = []
            while True:
                kept.append(mmap.mmap(-1, 16 << 20))
                kept[-1].write(b'x' * (16 << 20))
        """,
        CALM,
        ("memory", "exception", "timeout"),
    ),
    Hostile(
        "endless loop while loading",
        "while True: pass",
        ENDED,
        ("timeout",),
    ),
    Hostile(
        "endless loop in a test",
        """
        def answer():
            while True: pass
        """,
        CALM,
        ("timeout",),
    ),
    Hostile(
        "sleep",
        """
        import time
        def answer():
            time.sleep(1000)
        """,
        CALM,
        ("timeout",),
    ),
    Hostile(
        "flood of output",
        """
        def answer():
            while True: print('x' * 65536)
        """,
        CALM,
        ("timeout",),
    ),
    Hostile(
        "flood of errors",
        """
        def answer():
            while True: sys.stderr.write('x' * 65536)
        """,
        CALM,
        ("timeout",),
    ),
    Hostile(
        "huge recursion",
        """
        def answer():
            return answer() + 1
        """,
        CALM,
        ("exception",),
    ),
    Hostile(
        "recursion without a limit",
        """
        sys.setrecursionlimit(10**9)
        def f(x):
            return sorted([x], key=f)
        def answer():
            return f(1)
        """,
        CALM,
        ("crash", "exception", "memory", "timeout"),
    ),
    Hostile(
        "huge number",
        """
        def answer():
            return 9 ** 9 ** 9
        """,
        CALM,
        ("timeout", "memory"),
    ),
    Hostile(
        "huge number that comes out",
        """
        def answer():
            return 1 << 10_000_000
        """,
    ),
    Hostile(
        "number too long to write",
        """
        def answer():
            return -10 ** 5000
        """,
    ),
    Hostile(
        "a value too large to come out",
        """
        def answer():
            return 'x' * (20 << 20)
        """,
        None,
        ("output", "memory"),
    ),
    Hostile(
        "a value that doubles as it is written",
        """
        def answer():
            x = []
            for _ in range(60): x = [x, x]
            return x
        """,
        None,
        ("timeout", "memory", "output"),
    ),
    Hostile(
        "a value that holds itself",
        """
        def answer():
            x = []
            x.append(x)
            return x
        """,
    ),
    Hostile(
        "a value nested 100,000 deep",
        """
        def answer():
            x = []
            for _ in range(10**5): x = [x]
            return x
        """,
    ),
    Hostile(
        "numbers that collide in a set",
        """
        def answer():
            return {n * (2**61 - 1) for n in range(1, 3000)} | set(range(10**5))
        """,
        None,
        ("garbage", "timeout", "memory", "wrong_answer"),
    ),
    Hostile(
        "endless generator",
        """
        def answer():
            def go():
                while True: yield 1
            return go()
        """,
    ),
    Hostile(
        "endless generator, read",
        """
        def answer():
            return list(iter(int, 1))
        """,
        CALM,
        ("memory", "timeout"),
    ),
    Hostile(
        "an exception that takes for ever to be written",
        """
        class E(Exception):
            def __str__(self):
                while True: pass
        def answer():
            raise E
        """,
        CALM,
        ("timeout",),
    ),
    Hostile(
        "every exception swallowed",
        """
        def answer():
            while True:
                try:
                    while True: pass
                except BaseException: pass
        """,
        CALM,
        ("timeout",),
    ),
    Hostile(
        "regex bomb",
        """
        import re
        def answer():
            re.match('(a+)+$', 'a' * 60 + 'b')
        """,
        CALM,
        ("timeout",),
    ),
    Hostile(
        "brackets without end",
        """
        exec("x = " + "(" * 100_000)
        """,
        ENDED,
        ("syntax", "memory", "exception"),
    ),
    Hostile(
        "100,000 open files",
        """
        def answer():
            kept = []
            while True: kept.append(os.open('/dev/null', 0))
        """,
        CALM,
        ("exception",),
    ),
    Hostile(
        "a full disk",
        """
        import itertools
        def answer():
            for n in itertools.count():
                with open(f'/tmp/{n}', 'wb') as file: file.write(b'x' * (8 << 20))
        """,
        None,
        ("exception", "files"),
    ),
    Hostile(
        "a full temporary folder",
        """
        import itertools, tempfile
        def answer():
            for n in itertools.count():
                with open(os.path.join(tempfile.gettempdir(), str(n)), 'wb') as file: file.write(b'x' * (1 << 20))
        """,
        None,
        ("exception", "files"),
    ),
    Hostile(
        "100,000 temporary files",
        """
        import itertools, tempfile
        def answer():
            for n in itertools.count(): open(os.path.join(tempfile.gettempdir(), str(n)), 'wb').close()
        """,
        None,
        ("exception", "files", "timeout"),
    ),
    Hostile(
        "a file that grows",
        """
        def answer():
            with open('/tmp/x', 'wb') as f:
                while True: f.write(b'x' * 65536)
        """,
        None,
        ("exception", "files"),
    ),
    Hostile(
        "100,000 threads",
        """
        import threading, time
        def answer():
            while True: threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        """,
        CALM,
        ("exception",),
    ),
]

CLINGING = [
    Hostile(
        "SIGTERM and the clock ignored",
        """
        import signal
        for number in range(1, 64):
            try: signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError): pass
        def answer():
            signal.signal(signal.SIGPROF, signal.SIG_IGN)
            while True: pass
        """,
        None,
        ("timeout", "exit"),
    ),
    Hostile(
        "a handler for SIGXCPU and SIGPROF",
        """
        import signal
        def answer():
            for number in (signal.SIGXCPU, signal.SIGPROF): signal.signal(number, lambda *a: None)
            while True: pass
        """,
        CALM,
        ("timeout",),
    ),
    Hostile(
        "the clock set back",
        """
        import signal
        def answer():
            signal.setitimer(signal.ITIMER_PROF, 0)
            while True: pass
        """,
        CALM,
        ("timeout",),
    ),
    Hostile(
        "a thread that outlives the test",
        """
        import threading, time
        def answer():
            threading.Thread(target=time.sleep, args=(60,)).start()
            return 0
        """,
    ),
    Hostile(
        "a daemon, forked twice, in a session of its own",
        """
        import time
        def answer():
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    while True: time.sleep(0.01)
                os._exit(0)
            return 0
        """,
    ),
    Hostile(
        "daemons that compute",
        """
        def answer():
            for _ in range(4):
                if os.fork() == 0:
                    os.setsid()
                    while True: pass
            return 0
        """,
    ),
    Hostile(
        "something to do at exit",
        """
        import atexit
        atexit.register(lambda: os.abort())
        def answer():
            return 0
        """,
    ),
    Hostile(
        "stops itself",
        """
        import signal
        def answer():
            os.kill(os.getpid(), signal.SIGSTOP)
        """,
        None,
        ("timeout", "exception"),
    ),
    Hostile(
        "stops its parent",
        """
        import signal
        def answer():
            os.kill(os.getppid(), signal.SIGSTOP)
            return 0
        """,
        None,
        ("timeout", "exception", "wrong_answer"),
    ),
]
