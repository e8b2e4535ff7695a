"""The measurements of `edgeembed bench`: how fast a server embeds texts, and how much memory it uses."""
