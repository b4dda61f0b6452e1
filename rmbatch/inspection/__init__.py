"""What an output says about its rows: the story of one row, and what differs between two scorings or selections."""
