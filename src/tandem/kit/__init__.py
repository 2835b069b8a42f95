"""Tools without domain words: settings, errors, ids, clock, database, blobs, HTTP, logging."""
