"""Protection schemes side by side: what each costs a meter, counted, and what each withstands. Pure but for times."""
