package inject

// PathVariables placeholder until the branch that reads the webhook's path is merged.
func PathVariables(string) ([]Variable, error) { return nil, nil }
