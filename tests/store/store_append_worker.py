"""Child process of the concurrency tests: copies a store episode by episode and says which ones are on disk.

``python store_append_worker.py SOURCE TARGET BATCH``: appends every BATCH episodes twice, as a retrying writer would,
and prints ``ready`` and then the id of each acknowledged episode, one a line.
"""

from __future__ import annotations

import sys

from digiq_ray.store.episodes import EpisodeStore


def main(source: str, target: str, batch: int) -> None:
    """Copies ``source`` into ``target``."""
    episodes = list(EpisodeStore(source).episodes())
    store = EpisodeStore(target)
    print("ready", flush=True)
    for start in range(0, len(episodes), batch):
        part = episodes[start : start + batch]
        store.append(part)
        print("\n".join(episode.episode_id for episode in part), flush=True)
        store.append(part)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
