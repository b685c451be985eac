/* SPDX-License-Identifier: Apache-2.0
 * Part of the reference meter of ami-headend. Licensed under the Apache License, Version 2.0:
 * http://www.apache.org/licenses/LICENSE-2.0 */

int known_answers(void);
int power_cuts(void);

int main(void) { return known_answers() + power_cuts() ? 1 : 0; }
