"""The vision-language model: prompts, images, loading, sampling, features, and stage-1 fine-tuning on Transformers."""

from digiq_ray.vlm.cpu_builds import install

install()  # before any module of this package imports Transformers
