"""A pipeline of two stages over three queues: lines are split, then their words are counted."""

from collections import Counter

import qmill

TEXT = """\
Can you can a can as a canner can can a can?
How many cans can a canner can if a canner can can cans?
"""


def split(lines: qmill.Q, words: qmill.Q) -> None:
    """Stage 1: put each word of each line."""
    for msg in lines:
        for word in msg.data.split():
            words.put(word.strip(".,?").lower())


def count(words: qmill.Q, counts: qmill.Q) -> None:
    """Stage 2: count the words that this worker gets."""
    counts.put(Counter(msg.data for msg in words))


def main() -> None:
    lines, words, counts = qmill.Q(), qmill.Q(), qmill.Q()
    splitters = [qmill.run(split, lines, words) for _ in range(2)]
    counters = [qmill.run(count, words, counts) for _ in range(2)]

    for line in TEXT.splitlines():
        lines.put(line)
    lines.stop(splitters)  # every word is in the second queue now,
    words.stop(counters)  # and every count in the third

    total: Counter[str] = sum((msg.data for msg in counts.items()), Counter())
    for word, times in total.most_common(3):
        print(f"{word}: {times}")
    if total["can"] != 10 or total.total() != 25:
        raise SystemExit(f"wrong counts: {total}")


if __name__ == "__main__":
    main()
