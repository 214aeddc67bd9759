"""Compressors as operators write them."""

import pytest
from farswap.common.compressor import Compressor, Recompressor


@pytest.mark.parametrize(
    ("text", "shown", "codec", "level"),
    [
        ("lz4", "lz4", "lz4", 1),
        ("lz4:1", "lz4", "lz4", 1),
        ("lz4:65537", "lz4:65537", "lz4", 65537),
        ("zstd", "zstd:3", "zstd", 3),
        ("zstd:1", "zstd:1", "zstd", 1),
        ("zstd:19", "zstd:19", "zstd", 19),
    ],
)
def test_each_has_a_codec_and_a_level(text: str, shown: str, codec: str, level: int) -> None:
    compressor = Compressor.parse(text)
    assert (compressor, compressor.codec, compressor.level) == (shown, codec, level)
    assert Compressor.of(codec, level) == compressor
    assert Compressor.parse(compressor) == compressor


@pytest.mark.parametrize(
    "text",
    ["", "lz", "lz4:", "lz4:0", "lz4:65538", "zstd:20", "zstd:-1", "zstd:3:4", "off", 3, None],
)
def test_anything_else_is_refused_by_name(text: object) -> None:
    with pytest.raises(ValueError, match=f'^"{text}"'):
        Compressor.parse(text)


def test_recompression_is_zstd_or_off() -> None:
    assert not Recompressor.parse("off").is_on
    on = Recompressor.parse("zstd")
    assert (on, on.is_on, on.level) == ("zstd:3", True, 3)
    with pytest.raises(ValueError, match="neither off nor"):
        Recompressor.parse("lz4")
