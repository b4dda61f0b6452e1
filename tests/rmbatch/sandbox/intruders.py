"""Hostile programs that kill, change or read what is not theirs."""

from tests.rmbatch.sandbox.hostile import CALM, ENDED, Hostile

VIOLENT = [
    Hostile(
        "kills its parent",
        """
        def answer():
            os.kill(os.getppid(), 9)
            return 0
        """,
        None,
        ("crash", "exception"),
    ),
    Hostile(
        "kills its group",
        """
        def answer():
            os.killpg(0, 9)
        """,
        None,
        ("crash", "exception"),
    ),
    Hostile(
        "kills everything",
        """
        def answer():
            os.kill(-1, 9)
            os._exit(0)
        """,
        None,
        ("crash", "exit", "exception", "wrong_answer"),
    ),
    Hostile(
        "kills process 1",
        """
        try: os.kill(1, 9)
        except OSError: pass
        """,
    ),
    Hostile(
        "kills its parent while loading",
        "os.kill(os.getppid(), 9)",
        None,
        ("wrong_answer", "exception"),
    ),
    Hostile(
        "kills by number",
        """
        for pid in range(2, 3000):
            try: os.kill(pid, 9)
            except OSError: pass
        """,
        None,
        ("crash", "wrong_answer"),
    ),
    Hostile(
        "segfault",
        """
        import ctypes
        def answer():
            return ctypes.string_at(0)
        """,
        CALM,
        ("crash",),
    ),
    Hostile(
        "abort while loading",
        "os.abort()",
        ENDED,
        ("crash",),
    ),
    Hostile(
        "deletes files",
        """
        import shutil
        for path in ('CANARY', '/usr/lib/os-release', '/tmp'): shutil.rmtree(path, ignore_errors=True)
        attempt('deleted', lambda: os.remove('CANARY/file'))
        attempt('usr', lambda: os.rename('/usr/bin', '/usr/nib'))
        """,
    ),
    Hostile(
        "limits raised",
        """
        import resource
        for name in ('AS', 'FSIZE', 'NOFILE', 'NPROC', 'CPU', 'CORE'):
            kind = getattr(resource, 'RLIMIT_' + name)
            hard = resource.getrlimit(kind)[1]
            attempt(name, lambda: resource.setrlimit(kind, (hard + 1, hard + 1)))
            attempt(name, lambda: resource.setrlimit(kind, (-1, -1)))
            attempt('parent', lambda: resource.prlimit(os.getppid(), kind, (0, 0)))
            attempt('init', lambda: resource.prlimit(1, kind, (0, 0)))
        """,
    ),
    Hostile(
        "the parent slowed down",
        """
        attempt('nice', lambda: os.setpriority(os.PRIO_PROCESS, os.getppid(), 19))
        attempt('affinity', lambda: os.sched_setaffinity(os.getppid(), {0}))
        attempt('policy', lambda: os.sched_setscheduler(os.getppid(), os.SCHED_IDLE, os.sched_param(0)))
        """,
    ),
    Hostile(
        "result pipe closed",
        """
        for fd in range(3, 64):
            try: os.close(fd)
            except OSError: pass
        """,
        ENDED,
        ("exit", "timeout", "crash"),
    ),
]

CURIOUS = [
    Hostile(
        "reads the system",
        """
        for path in ('/etc/passwd', '/etc/shadow', '/etc/hosts', '/root/.bashrc', '/sys/kernel', '/dev/mem', '/dev/vda',
                     '/dev/tty', '/var/log', '/home', 'CANARY/file', 'CANARY'):
            attempt(path, lambda: open(path).read())
            attempt(path, lambda: os.listdir(path))
        """,
    ),
    Hostile(
        "reads the environment",
        """
        text = repr(dict(os.environ)) + repr(sys.argv) + repr(sys.path)
        if 'SECRET' in text or 'site-packages' in text: escaped.append(text)
        """,
    ),
    Hostile(
        "walks /proc",
        """
        for pid in ['self', *map(str, range(1, 50))]:
            for name in ('environ', 'mem', 'maps', 'cmdline', 'fd', 'root', 'cwd'):
                attempt(name, lambda: open(f'/proc/{pid}/{name}').read())
                attempt(name, lambda: os.listdir(f'/proc/{pid}/{name}'), ([],))
        """,
    ),
    Hostile(
        "network",
        """
        import socket
        attempt('connect', lambda: socket.create_connection(('127.0.0.1', PORT), 1))
        attempt('listen', lambda: socket.create_server(('127.0.0.1', 0)))
        attempt('udp', lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        attempt('unix', lambda: socket.socket(socket.AF_UNIX).connect(chr(0) + 'ABSTRACT'))
        attempt('raw', lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
        attempt('netlink', lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
        """,
    ),
    Hostile(
        "symbolic links out",
        """
        attempt('link', lambda: os.symlink('CANARY/file', '/tmp/link'), (None,))
        attempt('read', lambda: open('/tmp/link').read())
        attempt('write', lambda: open('/tmp/link', 'w'))
        attempt('up', lambda: open('../../../../../etc/passwd').read())
        """,
    ),
    Hostile(
        "hard links",
        """
        attempt('passwd', lambda: os.link('/etc/passwd', '/tmp/passwd') or 1)
        attempt('file', lambda: os.link('CANARY/file', '/tmp/file') or 1)
        attempt('usr', lambda: os.link('/usr/bin/env', '/tmp/env') or 1)
        import tempfile
        own = tempfile.gettempdir()
        attempt('own', lambda: os.link('CANARY/file', own + '/file') or 1)
        attempt('moved', lambda: os.rename('CANARY/file', own + '/moved') or 1)
        os.symlink('CANARY/file', own + '/link')
        attempt('followed', lambda: open(own + '/link').read())
        attempt('written', lambda: open(own + '/link', 'w'))
        """,
    ),
    Hostile(
        "other roots",
        """
        import ctypes
        libc = ctypes.CDLL(None)
        attempt('chroot', lambda: os.chroot('/tmp') or 1)
        attempt('mount', lambda: libc.mount(b'tmpfs', b'/tmp', b'tmpfs', 0, None), (-1,))
        attempt('unshare', lambda: libc.unshare(0x10000000), (-1,))
        attempt('clone', lambda: libc.syscall(56, 0x10000011, 0, 0, 0, 0), (-1,))
        attempt('setns', lambda: libc.setns(0, 0), (-1,))
        attempt('handle', lambda: libc.open_by_handle_at(0, b'x' * 64, 0), (-1,))
        os.chdir('/')
        attempt('passwd', lambda: open('etc/passwd').read())
        """,
    ),
    Hostile(
        "doors of the kernel",
        """
        import ctypes
        libc = ctypes.CDLL(None)
        for number in (425, 321, 298, 323, 250, 248, 317, 175, 246, 169, 319, 240, 64, 68):
            attempt(number, lambda: libc.syscall(number, 0, 0, 0, 0, 0, 0), (-1,))
        attempt('shmget', lambda: libc.shmget(0, 1 << 30, 0o1600), (-1,))
        attempt('x32', lambda: libc.syscall(0x40000000 + 41, 2, 1, 0), (-1,))
        attempt('ptrace', lambda: libc.ptrace(16, os.getppid(), 0, 0), (-1,))
        attempt('peek', lambda: libc.process_vm_readv(os.getppid(), 0, 0, 0, 0, 0), (-1,))
        attempt('dumpable', lambda: libc.prctl(4, 1, 0, 0, 0), (-1,))
        """,
    ),
    Hostile(
        "other users",
        """
        attempt('root', lambda: os.setuid(0) or 1)
        attempt('groups', lambda: os.setgroups([0]) or 1)
        attempt('owner', lambda: os.chown('/tmp', 0, 0) or 1)
        if os.getuid() == 0: escaped.append('is root')
        """,
    ),
    Hostile(
        "other programs",
        """
        import subprocess
        attempt('exec', lambda: os.execv('/usr/bin/env', ['env']))
        attempt('run', lambda: subprocess.run(['/bin/sh', '-c', 'true']).returncode, (127,))
        attempt('system', lambda: os.system('true'), (-1, 32512, 256 * 127, 256 * 126))
        attempt('spawn', lambda: os.posix_spawn('/bin/true', ['true'], {}))
        """,
    ),
    Hostile(
        "attributes by the newest calls",
        """
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        size, value = ctypes.c_size_t(16), ctypes.create_string_buffer(b'x')
        given = (ctypes.c_uint64 * 2)(ctypes.addressof(value), 1)
        path = b'CANARY/file'
        attempt('set', lambda: libc.syscall(463, -100, path, 0, b'user.x', given, size), (-1,))
        attempt('removed', lambda: libc.syscall(466, -100, path, 0, b'user.canary'), (-1,))
        attempt('flags', lambda: libc.syscall(469, -100, path, (ctypes.c_uint64 * 5)(), ctypes.c_size_t(40), 0), (-1,))
        if os.path.exists(path):
            attempt('attributes', lambda: os.listxattr(path), ([], ['user.canary']))
        """,
    ),
    Hostile(
        "signals by way of a file",
        """
        import fcntl, signal, struct
        reading, writing = os.pipe()
        for pid in (os.getppid(), 1):
            attempt('owner', lambda: fcntl.fcntl(reading, fcntl.F_SETOWN, pid) or 1)
            attempt('owner', lambda: fcntl.fcntl(reading, 15, struct.pack('ii', 1, pid)) or 1)
        attempt('signal', lambda: fcntl.fcntl(reading, 10, signal.SIGKILL) or 1)
        attempt('asynchronous', lambda: fcntl.fcntl(reading, fcntl.F_SETFL, os.O_ASYNC) or 1)
        attempt('asynchronous', lambda: fcntl.ioctl(reading, 0x5452, struct.pack('i', 1)) or 1)
        os.write(writing, b'x')
        """,
    ),
    Hostile(
        "changes what others see",
        """
        attempt('chmod', lambda: os.chmod('CANARY/file', 0o777) or 1)
        attempt('times', lambda: os.utime('CANARY/file') or 1)
        attempt('own', lambda: os.chmod(os.__file__, 0o777) or 1)
        attempt('library', lambda: open(os.__file__, 'a'))
        attempt('new', lambda: open(os.path.dirname(os.__file__) + '/sitecustomize.py', 'w'))
        """,
    ),
]
