"""From any table or file to columns, levels and complete rows."""
