"""Child process of the tests with many writers on S3: copies a store into another and says what is acknowledged.

``python s3_append_worker.py SOURCE TARGET BATCH``: appends every BATCH episodes twice, as a writer does that retries,
and prints the id of each acknowledged episode, one a line.
"""

from __future__ import annotations

import sys

from digiq_ray.store.episodes import EpisodeStore


def main(source: str, target: str, batch: int) -> None:
    """Copies ``source`` into ``target``."""
    episodes = list(EpisodeStore(source).episodes())
    store = EpisodeStore(target)
    for start in range(0, len(episodes), batch):
        part = episodes[start : start + batch]
        for _ in range(2):
            store.append(part)
        print("\n".join(episode.episode_id for episode in part), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
