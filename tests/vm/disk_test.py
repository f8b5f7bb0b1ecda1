"""The disk loses what was not flushed, never what was, and reads what was written last."""

import random
import tempfile
import unittest

from disk import BLOCK, Disk


class DiskTest(unittest.TestCase):
    BLOCKS = 8

    def setUp(self):
        self.file = tempfile.NamedTemporaryFile()
        self.file.truncate(self.BLOCKS * BLOCK)
        self.disk = Disk(self.file.name)

    def tearDown(self):
        self.disk.medium.close()
        self.disk.file.close()
        self.file.close()

    def test_reads_what_was_written_last_also_across_and_within_blocks(self):
        expected = bytearray(self.BLOCKS * BLOCK)
        rng = random.Random(1)
        for step in range(500):
            offset = 512 * rng.randrange(self.BLOCKS * BLOCK // 512)
            length = min(512 * rng.randint(1, 20), len(expected) - offset)
            data = rng.randbytes(length)
            self.disk.write(offset, data)
            expected[offset:offset + length] = data
            self.assertEqual(self.disk.read(offset, length), data)
            if step % 50 == 0:
                self.disk.flush()
                self.assertEqual(self.disk.medium[:], expected)
        self.assertEqual(self.disk.read(0, len(expected)), expected)

    def test_a_cut_keeps_what_was_flushed_and_whole_blocks_of_the_rest(self):
        rng = random.Random(2)
        fates = set()
        for turn in range(100):
            flushed = [rng.randbytes(BLOCK) for _ in range(self.BLOCKS)]
            self.disk.write(0, b"".join(flushed))
            self.disk.flush()
            later = [[rng.randbytes(BLOCK) for _ in range(2)] for _ in range(4)]
            for number, blocks in enumerate(later):
                for data in blocks:
                    self.disk.write(number * BLOCK, data)
            lost, survived = self.disk.cut(rng)
            self.assertEqual(lost, 8)
            fates.add(survived)
            for number in range(self.BLOCKS):
                allowed = [flushed[number]] + (later[number] if number < 4 else [])
                self.assertIn(self.disk.read(number * BLOCK, BLOCK), allowed)
            if survived == 0:
                self.assertEqual(self.disk.medium[:], b"".join(flushed))
        self.assertTrue({0, 8} < fates and len(fates) > 4, fates)


if __name__ == "__main__":
    unittest.main()
