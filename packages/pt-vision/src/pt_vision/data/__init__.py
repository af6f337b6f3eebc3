"""Images in: decoded by stated rules, read from folders, tables, arrays and hub data sets, as data sets with ids and classes."""
