"""The one HTTP client: requests, patience with servers, and files that grow until they are whole."""
