"""`Q`, `Msg` and the mailbox."""
