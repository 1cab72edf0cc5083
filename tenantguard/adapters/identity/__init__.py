"""Identity sources: who a credential belongs to."""
