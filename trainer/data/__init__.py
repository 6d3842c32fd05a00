"""Reading: tables, triplets, captions and images, as rows that are checked."""
