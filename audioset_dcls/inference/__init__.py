"""Models x data: `predict`, `evaluate`, `inspect`, each a module whose main function has its name."""
