"""Unix sockets between two parties that can be cut: a process of its own, so that it may run as the user whom the parties expect.

    cutter.py LINK LISTEN TARGET [LINK LISTEN TARGET ...]      on standard input: hold LINK | drop LINK | heal LINK | files BYTES:PID

hold: nothing passes, no end is told (a dead cable); what was sent arrives late.  drop: every connection breaks, none is made.
files: no file of that process may grow beyond so many bytes, as on a full disk (-1: any size); only its own user may say so.
"""
import asyncio
import collections
import os
import resource
import sys


class Link:
    def __init__(self):
        self.passes, self.dropped, self.writers = asyncio.Event(), False, set()
        self.passes.set()

    def take(self, order):
        self.dropped = order == "drop"
        if order == "hold":
            self.passes.clear()
            return
        self.passes.set()
        for writer in list(self.writers) if self.dropped else []:
            writer.transport.abort()

    async def pump(self, reader, writer):
        try:
            while data := await reader.read(65536):
                await self.passes.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        writer.transport.abort()

    async def serve(self, target, reader, writer):
        await self.passes.wait()
        try:
            if self.dropped:
                raise ConnectionRefusedError
            there, back = await asyncio.open_unix_connection(target)
        except OSError:
            writer.transport.abort()
            return
        self.writers |= {writer, back}
        await asyncio.gather(self.pump(reader, back), self.pump(there, writer))
        self.writers -= {writer, back}


def limit_files(size, pid):
    try:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]))
    except ProcessLookupError:
        pass


async def main(arguments):
    links = collections.defaultdict(Link)
    for name, listen, target in zip(*[iter(arguments)] * 3):
        link = links[name]
        await asyncio.start_unix_server(lambda r, w, link=link, target=target: link.serve(target, r, w), listen, backlog=256)
    print("ready", flush=True)
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while line := await orders.readline():
        order, name = line.decode().split()
        if order == "files":
            limit_files(*map(int, name.split(":")))
        else:
            links[name].take(order)


os.umask(0o077)
asyncio.run(main(sys.argv[1:]))
