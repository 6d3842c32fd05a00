"""Names and papers of the methods."""

from __future__ import annotations

from typing import NamedTuple


__all__ = ["PAPERS", "Paper", "write_bibtex"]


class Paper(NamedTuple):
    """A method and its paper.

    Args:
        name (`str`): Name of the method, as its authors write it.
        key (`str`): Key of its BibTeX entry.
        title, authors (`str`): Of the paper.
        arxiv (`str`): Its number there, which begins with year and month.
    """

    name: str
    key: str
    title: str
    authors: str
    arxiv: str


PAPERS = {
    "rtd": Paper(
        "RTD",
        "byun2024rtd",
        "Reducing Task Discrepancy of Text Encoders for Zero-Shot Composed Image Retrieval",
        "Byun, Jaeseok and Jeong, Seokhyeon and Kim, Wonjae and Chun, Sanghyuk and Moon, Taesup",
        "2406.09188",
    ),
    "lincir": Paper(
        "LinCIR",
        "gu2023lincir",
        "Language-only Efficient Training of Zero-shot Composed Image Retrieval",
        "Gu, Geonmo and Chun, Sanghyuk and Kim, Wonjae and Kang, Yoohoon and Yun, Sangdoo",
        "2312.01998",
    ),
    "searle": Paper(
        "SEARLE",
        "baldrati2023searle",
        "Zero-Shot Composed Image Retrieval with Textual Inversion",
        "Baldrati, Alberto and Agnolucci, Lorenzo and Bertini, Marco and Del Bimbo, Alberto",
        "2303.15247",
    ),
    "pic2word": Paper(
        "Pic2Word",
        "saito2023pic2word",
        "Pic2Word: Mapping Pictures to Words for Zero-shot Composed Image Retrieval",
        "Saito, Kuniaki and Sohn, Kihyuk and Zhang, Xiang and Li, Chun-Liang and Lee, Chen-Yu and Saenko, Kate and "
        "Pfister, Tomas",
        "2302.03084",
    ),
    "context_i2w": Paper(
        "Context-I2W",
        "tang2023contexti2w",
        "Context-I2W: Mapping Images to Context-dependent Words for Accurate Zero-Shot Composed Image Retrieval",
        "Tang, Yuanmin and Yu, Jing and Gai, Keke and Zhuang, Jiamin and Xiong, Gang and Hu, Yue and Wu, Qi",
        "2309.16137",
    ),
    "fti4cir": Paper(
        "FTI4CIR",
        "lin2025fti4cir",
        "Fine-grained Textual Inversion Network for Zero-Shot Composed Image Retrieval",
        "Lin, Haoqiang and Wen, Haokun and Song, Xuemeng and Liu, Meng and Hu, Yupeng and Nie, Liqiang",
        "2503.19296",
    ),
}


def write_bibtex(method: str) -> str:
    """Write the BibTeX entry of a method's paper.

    Args:
        method (`str`): A key of `PAPERS`.

    Returns:
        `str`: The entry.

    Examples:
        >>> write_bibtex("rtd").splitlines()[0]
        '@article{byun2024rtd,'
    """
    paper = PAPERS[method]
    return (
        f"@article{{{paper.key},\n  title = {{{paper.title}}},\n  author = {{{paper.authors}}},\n"
        f"  journal = {{arXiv:{paper.arxiv}}},\n  year = {{20{paper.arxiv[:2]}}}\n}}"
    )
