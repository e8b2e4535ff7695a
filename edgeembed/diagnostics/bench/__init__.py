"""What `edgeembed bench` measures: how fast a server on this machine turns texts into vectors, and what memory it takes."""
