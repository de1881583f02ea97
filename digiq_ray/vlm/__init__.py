"""The vision-language model: prompts, images, loading, sampling, features, and stage-1 fine-tuning on Transformers."""
