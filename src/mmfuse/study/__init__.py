"""The study: its parameters, what they name, where each result lies, and which code and keys each depends on."""
