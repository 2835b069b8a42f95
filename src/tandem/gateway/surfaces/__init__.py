"""What clients see: URL families, error shapes, encodings; OpenAI and Azure OpenAI."""
