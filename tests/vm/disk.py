"""A disk with a volatile write cache, for qemu: an NBD server on a unix socket.

What was written since the last flush is kept in memory. When the power is cut, none, some or the first of these writes reach
the medium, as with a real disk, which may write what it likes and in any order, but only what it was told to flush before it
says so. Blocks of 4096 bytes are written whole or not at all.
"""

import mmap
import socket
import struct
import threading

BLOCK = 4096

# https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
FIXED_NEWSTYLE, NO_ZEROES = 1, 2
OPTION_EXPORT_NAME, OPTION_ABORT, OPTION_INFO, OPTION_GO = 1, 2, 6, 7
REPLY_ACK, REPLY_INFO, REPLY_UNSUPPORTED = 1, 3, 0x80000001
REPLY_MAGIC = 0x3E889045565A9
INFO_EXPORT, INFO_BLOCK_SIZE = 0, 3
HAS_FLAGS, SEND_FLUSH = 1, 4
REQUEST_MAGIC, ANSWER_MAGIC = 0x25609513, 0x67446698
READ, WRITE, DISCONNECT, FLUSH = 0, 1, 2, 3
INVALID = 22


class Disk:
    """The medium, a file, and the cache above it."""

    def __init__(self, path):
        self.file = open(path, "r+b")
        self.medium = mmap.mmap(self.file.fileno(), 0)
        self.size = len(self.medium)
        # Blocks as they are read, and, in order, the blocks as they were written since the last flush.
        self.cache = {}
        self.unflushed = []
        self.writes = self.flushes = 0

    def block(self, number):
        found = self.cache.get(number)
        return found if found is not None else self.medium[number * BLOCK:(number + 1) * BLOCK]

    def read(self, offset, length):
        first, last = offset // BLOCK, (offset + length + BLOCK - 1) // BLOCK
        data = b"".join(self.block(number) for number in range(first, last))
        skip = offset - first * BLOCK
        return data[skip:skip + length]

    def write(self, offset, data):
        self.writes += 1
        done = 0
        while done < len(data):
            number, skip = divmod(offset + done, BLOCK)
            piece = data[done:done + BLOCK - skip]
            if len(piece) < BLOCK:
                old = self.block(number)
                piece = old[:skip] + piece + old[skip + len(piece):]
                done += len(data[done:done + BLOCK - skip])
            else:
                done += BLOCK
            self.cache[number] = piece
            self.unflushed.append((number, piece))

    def store(self, blocks):
        for number, data in blocks:
            self.medium[number * BLOCK:(number + 1) * BLOCK] = data

    def flush(self):
        self.flushes += 1
        self.store(self.cache.items())
        self.cache.clear()
        self.unflushed.clear()

    def cut(self, random):
        """The power is gone. Says how many blocks were unflushed and how many of them survive."""
        fate = random.random()
        if fate < 0.4:
            survivors = []
        elif fate < 0.8:
            luck = random.random()
            survivors = [block for block in self.unflushed if random.random() < luck]
        else:
            survivors = self.unflushed[:random.randint(0, len(self.unflushed))]
        lost = len(self.unflushed)
        self.store(survivors)
        self.cache.clear()
        self.unflushed.clear()
        return lost, len(survivors)


class Server:
    """Serves a disk to one machine, until that goes away or the number of requests is reached that `cut_after` named."""

    def __init__(self, disk, path, on_cut):
        self.disk, self.on_cut = disk, on_cut
        self.requests = 0
        self.limit, self.at_flush = None, False
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(1)
        self.failure = None
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def cut_after(self, requests, at_flush):
        """Cuts the power at that many writes and flushes from now on, just before the last of them, or before the flush
        that comes next, when most is at stake."""
        self.at_flush = at_flush
        self.limit = self.requests + requests

    def run(self):
        try:
            self.connection, _ = self.listener.accept()
            with self.connection:
                if self.negotiate():
                    self.serve()
        except (ConnectionError, EOFError):
            # The machine is gone.
            pass
        except Exception as failure:  # Reported by the thread that waits for this one.
            self.failure = failure
        finally:
            self.listener.close()

    def receive(self, length):
        data = bytearray()
        while len(data) < length:
            piece = self.connection.recv(length - len(data))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)

    def negotiate(self):
        send = self.connection.sendall
        send(b"NBDMAGICIHAVEOPT" + struct.pack(">H", FIXED_NEWSTYLE | NO_ZEROES))
        self.receive(4)
        export = struct.pack(">QH", self.disk.size, HAS_FLAGS | SEND_FLUSH)
        while True:
            _, option, length = struct.unpack(">8sII", self.receive(16))
            self.receive(length)

            def reply(kind, data=b"", option=option):
                send(struct.pack(">QIII", REPLY_MAGIC, option, kind, len(data)) + data)

            if option == OPTION_EXPORT_NAME:
                send(export)
                return True
            if option == OPTION_ABORT:
                reply(REPLY_ACK)
                return False
            if option not in (OPTION_INFO, OPTION_GO):
                reply(REPLY_UNSUPPORTED)
                continue
            reply(REPLY_INFO, struct.pack(">H", INFO_EXPORT) + export)
            reply(REPLY_INFO, struct.pack(">HIII", INFO_BLOCK_SIZE, 512, BLOCK, 32 << 20))
            reply(REPLY_ACK)
            if option == OPTION_GO:
                return True

    def serve(self):
        while True:
            magic, _, kind, handle, offset, length = struct.unpack(">IHHQQI", self.receive(28))
            if magic != REQUEST_MAGIC:
                raise ValueError("not a request")
            data = self.receive(length) if kind == WRITE else b""
            if kind == DISCONNECT:
                return
            if kind != READ:
                self.requests += 1
                due = self.limit is not None and self.requests >= self.limit
                if due and (kind == FLUSH or not self.at_flush):
                    self.on_cut()
                    return
            error, answer = 0, b""
            if kind == READ:
                answer = self.disk.read(offset, length)
            elif kind == WRITE:
                self.disk.write(offset, data)
            elif kind == FLUSH:
                self.disk.flush()
            else:
                error = INVALID
            self.connection.sendall(struct.pack(">IIQ", ANSWER_MAGIC, error, handle) + answer)
