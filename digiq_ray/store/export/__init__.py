"""Episodes in formats that other programs read: Hugging Face ``datasets``, JSONL, LLaVA conversations."""
