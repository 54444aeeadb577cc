"""kodkod inside other people's benches. Each file imports its bench when it is used, and none is needed here."""
