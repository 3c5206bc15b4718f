"""Where data may be: the policy in force, the decisions, and a log that nobody changes unnoticed."""
