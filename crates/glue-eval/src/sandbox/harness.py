# Runs one program and reports its end. Standard input is a socket: the token, the length and the source come in, the token goes
# out when the last statement of the program is done. The token is why leaving early is not mistaken for passing.
def run():
    import errno
    import os
    import sys

    write, leave, show = os.write, os._exit, sys.excepthook

    def receive(count):
        parts = []
        while count:
            part = os.read(0, min(count, 1 << 20))
            if not part:
                leave(2)
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    token = receive(32)
    source = receive(int(receive(16)))
    channel = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)

    sys.path[:] = [entry for entry in sys.path if entry]
    sys.argv[:] = ["program"]
    program = type(sys)("program")
    sys.modules["program"] = program

    def flush():
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except BaseException:
                pass

    try:
        exec(compile(source.decode(), "<program>", "exec", dont_inherit=True), program.__dict__)
    except SystemExit as stop:
        flush()
        code = stop.code
        leave(code & 0xFF if isinstance(code, int) else 0 if code is None else 1)
    except BaseException as error:
        try:
            if isinstance(error, MemoryError):
                write(channel, b"memory")
            elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
                write(channel, b"space")
            # The first frame is the one above.
            trace = error.__traceback__ and error.__traceback__.tb_next
            show(type(error), error.with_traceback(trace), trace)
        except BaseException:
            pass
        flush()
        leave(1)
    flush()
    write(channel, token)
    leave(0)


run()
