"""The views: per entity its tables, its fold and its queries; the filter language; history."""
